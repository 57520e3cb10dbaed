"""Training of any system: data, the loop, one step of it, what happens between steps."""
