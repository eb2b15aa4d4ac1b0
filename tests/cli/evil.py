"""What no reader of strangers' files may execute."""

import os


class Evil:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)
