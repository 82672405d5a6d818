"""Write a recipe for a person's data: find texts, labels and splits, and say what is unsure in comments."""
