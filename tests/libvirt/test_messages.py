# SPDX-License-Identifier: LGPL-2.1-or-later
"""The driver's messages in other languages: the catalogues are whole, fit the program, and are used."""

import glob
import os
import re
import shutil

from harness import cases, test
from harness.context import mount
from harness.virt import domain

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PO = os.path.join(SOURCE, "po")
LANGUAGES = ("de", "es", "fr", "ja", "zh_CN")
LOCALES = {"de": "de_DE", "es": "es_ES", "fr": "fr_FR", "ja": "ja_JP", "zh_CN": "zh_CN"}


def template(t):
    """All messages as they are in the sources now."""
    with open(os.path.join(PO, "POTFILES"), encoding="ascii") as stream:
        listed = [line.strip() for line in stream if not line.startswith("#")]
    path = t.path("kumo.pot")
    t.run("xgettext", "--from-code=UTF-8", "--keyword=_", "--keyword=N_", "--flag=_:1:pass-c-format", "--directory", SOURCE, "--output", path,
          *listed)
    return path, listed


@test(timeout=30, where="any")
def every_source_file_is_listed(t):
    found = set()
    for path in glob.glob(f"{SOURCE}/driver/**/*.[ch]", recursive=True) + glob.glob(f"{SOURCE}/domain-xml/*.[ch]"):
        with open(path, encoding="utf-8") as stream:
            if re.search(r'\bN?_\(\s*"', stream.read()) and not path.endswith("compat.h"):
                found.add(os.path.relpath(path, SOURCE))
    listed = template(t)[1]
    t.equal(sorted(listed), sorted(found), "po/POTFILES and the files with messages")
    with open(os.path.join(PO, "LINGUAS"), encoding="ascii") as stream:
        t.equal(tuple(stream.read().split()), LANGUAGES, "po/LINGUAS")


@test(timeout=30, where="any")
@cases(language=LANGUAGES)
def a_catalogue(t, language):
    """Each message has a translation with the same conversions, and none is left marked as doubtful."""
    path = os.path.join(PO, f"{language}.po")
    text = t.run("msgfmt", "--check", "--statistics", "--output-file", t.path("kumo.mo"), path)
    t.check(re.fullmatch(r"\d+ translated messages\.\s*", text), text)
    t.run("msgcmp", path, template(t)[0])


@test(timeout=60, where="any")
@cases(language=LANGUAGES)
def a_client_hears_it(t, language):
    """virsh shows the driver's message in the user's language."""
    with open(os.path.join(PO, f"{language}.po"), encoding="utf-8") as stream:
        catalogue = dict(re.findall(r'^msgid "(.+)"\nmsgstr "(.+)"$', stream.read(), re.MULTILINE))
    expected = catalogue["/domain/os/type/@machine: '%s' is not supported, only '%s' is"] % ("none", "kumo-1")
    locale = t.path("locale")
    os.makedirs(f"{locale}/{language}/LC_MESSAGES")
    t.run("msgfmt", "-o", f"{locale}/{language}/LC_MESSAGES/kumo.mo", os.path.join(PO, f"{language}.po"))
    with open(os.path.join(os.environ["KUMO_BUILD"], "kumo-build.h"), encoding="utf-8") as stream:
        installed = re.search(r'KUMO_LOCALEDIR "(.*)"', stream.read())[1]
    t.private_directories(installed)
    mount(locale, installed)
    with open(t.path("vm.xml"), "w", encoding="utf-8") as stream:
        stream.write(domain(t).replace("<type>", "<type machine='none'>"))
    # Another name for C.UTF-8, which is always there, and which some C libraries translate as little as C.
    name = f"{LOCALES[language]}.UTF-8"
    shutil.copytree("/usr/lib/locale/C.utf8", t.path(f"locales/{name}"))
    environment = dict(os.environ, LOCPATH=t.path("locales"), LC_ALL=name, LANGUAGE="")
    uri = f"kumo:///embed?root={t.path('root')}"
    text = t.run("virsh", "-c", uri, "define", t.path("vm.xml"), status=1, env=environment)
    t.check(expected in text, f"'{expected}' is not in:\n{text}")
    plain = t.run("virsh", "-c", uri, "define", t.path("vm.xml"), status=1, env=dict(environment, LC_ALL="C.UTF-8"))
    t.check("machine: 'none' is not supported" in plain, plain)
