"""Export of trained models, their check and upload, and loading from a folder or the Hugging Face Hub."""
