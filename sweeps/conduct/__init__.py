"""What runs next and what an answer means, free of Ray and of MLflow: the conductor with its agenda and its paths."""
