"""Relevance of channels (layer-wise relevance propagation) and the feature relevance scores made of it."""

from gcp_core.relevance.channels import READ_POINTS, channel_relevance, relevance_pass
from gcp_core.relevance.frs import feature_relevance_scores
from gcp_core.relevance.stabiliser import STABILISERS
from gcp_core.relevance.untouched import untouched

__all__ = [
    "READ_POINTS",
    "STABILISERS",
    "channel_relevance",
    "feature_relevance_scores",
    "relevance_pass",
    "untouched",
]
