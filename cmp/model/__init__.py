"""The compressor: a frozen backbone, what makes a memory and what reads it. torch and transformers only."""
