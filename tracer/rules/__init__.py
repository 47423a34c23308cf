"""Rules: what is wrong, told from connections and visits. The engine asks them; `evidence` and `textbook` are the two sets."""
