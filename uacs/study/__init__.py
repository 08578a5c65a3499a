"""The paper's tables and figures, and the checks that it never made, as one resumable experiment."""
