"""The size of the small budget of a reproduced row; it stands alone, because `--help` prints it without torch."""

EPOCHS, STEPS, BATCH = 10, 30, 32  # steps an epoch of a schedule that draws one task, and rows of such a step
