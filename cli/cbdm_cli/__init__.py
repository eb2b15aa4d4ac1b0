"""The terminal: names become objects, facts become text."""
