"""What a person looks at: figures, pages, JSON answers, and what MLflow shows of the front."""
