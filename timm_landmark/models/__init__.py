"""The paper's two networks, one file each, and the loading of their weights from the Hub."""
