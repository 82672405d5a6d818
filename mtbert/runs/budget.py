"""Sizes of the budgets of reproduced rows; this file stands alone, because `--help` prints them without torch."""

EPOCHS, STEPS, BATCH = 10, 30, 32  # steps an epoch of a schedule that draws one task, and rows of such a step
FAIR_STEPS = 60  # steps an epoch under the fair budget; its pilots, and rows of half its length, have STEPS
PILOT_RATES, HEAD_PILOT_RATES = (2e-4, 5e-5), (1e-3, 4e-3)  # learning rates that pilots try; the second: heads alone
PILOT_FACTOR = 4  # the third pilot's rate is so many times beyond the better one
PILOT_SHARE = 0.2  # share of the training rows that pilots hold out
PILOT_SEED = 0
# Report E pre-trains on 22.4 million texts (700,000 steps of 32, 40 epochs) for at most 2.98 million examples of
# fine-tuning (10 epochs of its three tasks).
TEXTS_PER_EXAMPLE = 7.5
