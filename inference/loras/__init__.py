"""LoRAs as data of one picture: described, read, kept, ranked, and mixed in one forward."""
