"""What runs next, free of Ray and MLflow: sampling, feasibility, sharing, stopping, budgets, confirmation."""
