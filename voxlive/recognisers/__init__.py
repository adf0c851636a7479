"""Whole utterances to words: one interface, and an adapter for each library of models."""
