"""What is known: jobs and their outcomes, the ledger, the layout of a sweep's folder, provenance."""
