"""A trained model by itself: what it takes, what it gives, and all that it needs to predict."""
