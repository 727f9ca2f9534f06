"""How much memory trainings take, by formula, and whether it is there."""
