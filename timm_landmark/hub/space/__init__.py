"""A Hugging Face Space for an exported model: its files, and the wheel of this package that it installs."""
