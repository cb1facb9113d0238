"""What a recipe will cost before it is run: memory, operations, time; and what would make it fit."""
