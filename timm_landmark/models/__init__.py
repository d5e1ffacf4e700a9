"""The paper's two networks, one file each."""
