# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtual screen with a session bus, and what is on it, through the accessibility bus as a screen reader has it."""

import os
import re
import subprocess
import sys

SCREEN = ":77"


class Desktop:
    """A screen for the test and for what it starts: t.start() and t.run() find it in their environment."""

    def __init__(self, t):
        self.t = t
        home = t.path("home")
        os.mkdir(home, 0o700)
        os.environ.update(DISPLAY=SCREEN, HOME=home, XDG_RUNTIME_DIR=home, GDK_BACKEND="x11", GSETTINGS_BACKEND="memory",
                          DBUS_SESSION_BUS_ADDRESS=f"unix:path={home}/bus", LC_ALL="C.UTF-8")
        t.start("dbus-daemon", "--session", "--nofork", f"--address=unix:path={home}/bus", name="bus")
        t.start("Xvfb", SCREEN, "-screen", "0", "1024x768x24", "-nolisten", "tcp", name="Xvfb")
        t.wait_for(lambda: os.path.exists(f"{home}/bus") and os.path.exists(f"/tmp/.X11-unix/X{SCREEN[1:]}"), "the screen", 20)

    def look(self, *arguments):
        """One look at the desktop, by a process of its own: the library remembers what it has seen."""
        done = subprocess.run([sys.executable, os.path.realpath(__file__), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False, timeout=60)
        return done.stdout.decode()

    def tree(self):
        """Everything that is shown, a line of role, name and text each."""
        return self.look("tree").splitlines()

    def expect(self, pattern, seconds=30):
        """Waits until something is shown whose role, name and text fit a regular expression, such as r"push button\|Run\|"."""
        def found():
            lines = self.tree()
            with open(self.t.path("screen.log"), "w", encoding="utf-8") as stream:
                stream.writelines(f"{shown}\n" for shown in lines if not shown.endswith("||"))
            return any(re.match(pattern, shown) for shown in lines)

        self.t.wait_for(found, f"/{pattern}/ on the screen", seconds, every=0.5)

    def press(self, window, role, name, seconds=20):
        """Waits for a button or the like in a window and presses it."""
        self.t.wait_for(lambda: self.look("press", window, role, name) == "pressed\n", f"the {role} '{name}'", seconds, every=0.5)

    def type(self, window, text):
        """Types into the middle of a window. There is no window manager, so what has the focus is what we say."""
        number = self.t.run("xdotool", "search", "--onlyvisible", "--name", f"^{window}$").split()[-1]
        self.t.run("xdotool", "windowraise", number, "windowfocus", "--sync", number, "mousemove", "--window", number, "300", "300", "click",
                   "1", "type", text)

    def picture(self, path):
        self.t.run("import", "-window", "root", path)


def objects(node, depth=0):
    for index in range(node.get_child_count()):
        child = node.get_child_at_index(index)
        if child is None:
            continue
        yield child
        if depth < 30:
            yield from objects(child, depth + 1)


def main(arguments):
    import gi
    gi.require_version("Atspi", "2.0")
    from gi.repository import Atspi, GLib
    Atspi.init()
    Atspi.set_timeout(5000, 15000)
    try:
        window = None
        for item in objects(Atspi.get_desktop(0)):
            if not item.get_state_set().contains(Atspi.StateType.SHOWING):
                continue
            # What newer versions of the library name "button" is a "push button" in older ones.
            role = item.get_role_name().removeprefix("push ")
            name = (item.get_name() or "").replace("\n", " ")
            window = name if role == "frame" else window
            if arguments[0] == "tree":
                text = item.get_text_iface()
                shown = Atspi.Text.get_text(text, 0, Atspi.Text.get_character_count(text)) if text else ""
                print(f"{role}|{name}|{' '.join(shown.split())}")
            elif (window, role, name) == tuple(arguments[1:4]):
                item.get_action_iface().do_action(0)
                print("pressed")
                return
    except GLib.Error as error:  # what was there has gone, or is busy: the next look is another one
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
