"""How far samples are from data: Fréchet distance, precision and recall, and the features they are taken in."""
