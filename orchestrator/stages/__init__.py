"""The recipe: stages, their verdicts, and what is kept between them."""
