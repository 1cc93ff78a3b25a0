"""What a notebook shows of a sweep: Plotly figures (``analysis.plots``) and short texts (``analysis.describe``)."""
