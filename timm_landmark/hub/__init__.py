"""A trained model travels: export, check, push, and back from a folder or the Hub."""
