"""Aside: files out of the way until their successors are there, and put back where these never come."""

import os
import shutil

from llmc.errors import BusyError
from llmc.system.atomic import lock_folder, sync, temporary_directory

# A folder is PARTIAL while files are moved, in either direction, and WHOLE in between: whoever finds it after a crash
# knows that of a partial one everything belongs back.
PARTIAL, WHOLE = ".set-aside-partly", ".set-aside"


class Aside:
    """Files and folders of `folder`, moved into a hidden folder in it.

    Parameters
    ----------
    folder : str
    names : iterable of str
        What is moved.

    Raises
    ------
    OSError
        When something cannot be moved; all is where it was.
    """

    def __init__(self, folder, names):
        self._folder, self._path = folder, os.path.join(folder, PARTIAL)
        os.mkdir(self._path)
        self._lock = lock_folder(self._path)
        try:
            for name in names:
                os.rename(os.path.join(folder, name), os.path.join(self._path, name))
            self._become(WHOLE)
        except BaseException:
            self.put_back()
            raise

    @classmethod
    def found(cls, folder):
        """(what a run that died has left aside in a folder, or None; whether all of it is there).

        Raises
        ------
        BusyError
            When the run lives.
        """
        for name in (PARTIAL, WHOLE):
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                aside = cls.__new__(cls)
                aside._folder, aside._path, aside._lock = folder, path, lock_folder(path)
                if aside._lock is None:
                    raise BusyError(f"{folder}: another run is writing into it at this moment; wait, or name another "
                                    f"folder")
                return aside, name == WHOLE
        return None, False

    def put_back(self):
        """Move everything to where it was, over what stands there now."""
        if os.path.basename(self._path) != PARTIAL:
            self._become(PARTIAL)
        for name in os.listdir(self._path):
            place = os.path.join(self._folder, name)
            if os.path.isdir(place) and not os.path.islink(place):
                shutil.rmtree(place)
            os.replace(os.path.join(self._path, name), place)
        os.rmdir(self._path)
        self._let_go()

    def discard(self):
        """Remove it, from its place at one instant."""
        with temporary_directory(self._folder, os.path.basename(self._path)) as folder:
            os.rename(self._path, os.path.join(folder, WHOLE))
        self._let_go()

    def _become(self, name):
        path = os.path.join(self._folder, name)
        os.rename(self._path, path)
        self._path = path
        sync(self._folder)

    def _let_go(self):
        if self._lock is not None:
            os.close(self._lock)
