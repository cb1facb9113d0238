"""Speech that is made: sentences, instructions and dialogues from a grammar, and voices that speak them."""
