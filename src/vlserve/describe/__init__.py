"""Many pictures, one question: a run that a kill cannot harm."""
