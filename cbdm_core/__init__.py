"""The model: tensors and conditions. It knows no strategy and no terminal."""
