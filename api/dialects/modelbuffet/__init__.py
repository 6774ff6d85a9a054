"""Model Buffet: one call makes up to eight pictures and answers when they are made."""
