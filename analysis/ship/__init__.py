"""From a choice to a file somebody else can trust: export, proof, card, registry."""
