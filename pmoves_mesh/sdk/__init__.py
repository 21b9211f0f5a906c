"""What a Python program imports: registers it, finds others, and answers from its own memory."""
