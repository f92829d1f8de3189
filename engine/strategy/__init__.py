"""Ways to answer a question with one model, and the prompts and the grading that go with them."""
