"""Parameters and multiply-adds of the models, compared with the claims of the paper."""
