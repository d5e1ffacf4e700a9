"""Training through timm's own train script, with the paper's recipe."""
