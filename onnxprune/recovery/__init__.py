"""One shot by inputs alone: which channels the outputs miss least, and weights repaired for what is gone.

The model runs in onnxruntime on unlabelled inputs, piece by piece; nothing here needs labels, gradients or torch.
"""
