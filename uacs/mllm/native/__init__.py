"""What HumanOmni and VideoLLaMA2 are made of beside transformers' classes, and the way to and from their folders.

A family's file (`uacs.mllm.humanomni`, `uacs.mllm.videollama2`) composes these parts and says by what
names its published checkpoints hold them.
"""
