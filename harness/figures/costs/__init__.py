"""Figures of what training costs: time, memory and parameters, and what they buy."""
