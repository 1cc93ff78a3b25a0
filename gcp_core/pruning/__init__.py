"""From scores to a smaller model: selection, surgery, padding."""
