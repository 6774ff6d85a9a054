"""ModelMux: asynchronous, polled; JSON or a form with reference pictures."""
