"""Small local models beside the served ones: raters, prompt writers, captioners."""
