"""Formulas in docstrings, which are written there as one types them, with the letters that they stand for.

A formula is an indented block that is no example, or a paragraph that is one literal. Columns stay where they are.
"""

import re

LETTERS = {"lambda0": "λ₀", "lambda_0": "λ₀", "lambda": "λ", "alpha": "α", "delta": "δ", "tau": "τ", "mu": "μ"}
LETTERS |= {
    "xi": "ξ",
    "dlambda": "dλ",
    "sum_s": "Σₛ",
    "sum_b": "Σ_b",
    "sum_i": "Σᵢ",
    "sum_k": "Σₖ",
    "sum": "Σ",
    "gamma": "γ",
}
SIGNS = {"<-": "←", "->": "→", "^2": "²", "^-1": "⁻¹", "~": "∼", " - ": " − ", "+-": "±", ">=": "≥", "<=": "≤"}
SIGNS |= {"w_s": "wₛ", "p_ik": "pᵢₖ", "y_i": "yᵢ", "n_b": "n_b"}
WORD = re.compile(r"(?<![\w.`])(" + "|".join(LETTERS) + r")(?![\w`]|=)")
PROSE = re.compile(r"(?<![\w.`])(lambda0|lambda|tau|alpha|delta|mu)(?![\w`:]|=)")
INDENTED = re.compile(r"(?:^|\n\n)((?: {4}.*\n?)(?:(?: {4}.*)?\n)*)", re.MULTILINE)


def formula(text):
    """A line of a formula with its letters and signs; what stands in columns keeps its column."""

    def cell(found):
        cell = WORD.sub(lambda x: LETTERS[x[1]], found[0])
        for typed, sign in SIGNS.items():
            cell = cell.replace(typed, sign)
        return cell.ljust(len(found[0]))

    return re.sub(r"\S+(?: \S+)*", cell, text).rstrip()


def is_code(lines):
    """Whether a block is a program and no formula."""
    return any(
        re.search(r"^\s*(def|return|int|void|nn\.|print|\w+, \w+ = |\w+ = \w+\.\w)|nnx\.|bb\.|#", x) for x in lines
    )


def rewrite(lines):
    """The lines of a docstring, with formulas as blocks of their own and Greek letters in the text about them."""
    result, position, in_section = [], 0, False
    while position < len(lines):
        line = lines[position]
        line = "Fields:" if line == "Attributes:" else line
        if re.fullmatch(r"[A-Z]\w+:", line):
            in_section = line not in ("Source:",)
        elif line and not line.startswith(" "):
            in_section = False
        starts = not lines[position - 1].strip() if position else True
        if starts and (alone := re.fullmatch(r"( *)``([^`]+)``(.*)", line)) and not alone[1]:
            result += [
                "",
                ".. code-block:: none",
                "   :class: formula",
                "",
                f"   {formula(alone[2])}{formula(alone[3])}",
                "",
            ]
            position += 1
        elif starts and line.startswith("    ") and not in_section and not line.lstrip().startswith((">>>", "...")):
            end = position
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            block = lines[position:end]
            if any("`" in x for x in block):  # a table with names, which are links
                result += [
                    "",
                    ".. parsed-literal::",
                    "   :class: formula",
                    "",
                    *(f"   {formula(x[4:])}" for x in block),
                    "",
                ]
            elif is_code(block):
                language = "c" if any("void" in x for x in block) else "python"
                result += ["", f".. code-block:: {language}", "", *(f"   {x[4:]}" for x in block), ""]
            else:
                result += [
                    "",
                    ".. code-block:: none",
                    "   :class: formula",
                    "",
                    *(f"   {formula(x[4:])}" for x in block),
                    "",
                ]
            position = end
        else:
            is_example = line.lstrip().startswith((">>>", "..."))
            result.append(line if is_example else prose(line))
            position += 1
    return result


def prose(line):
    """Greek letters in a sentence, but for what is a literal: a program has the names that it has."""
    parts = re.split(r"(``[^`]*``)", line)
    return "".join(literal(part) if part.startswith("``") else letters(part) for part in parts)


def literal(part):
    """A formula between marks, or a piece of a program, which stays as it is."""
    is_program = re.search(r"lambda \w+:|\.\w+\(|\w=\S", part)
    return part if is_program else f"``{formula(part[2:-2])}``"


def letters(text):
    """Greek letters for their names, and squares."""
    text = re.sub(r"(?<=[\[(\s])\*(?=\w+[,\])])", r"\\*", text)  # [*spatial, channels]
    return PROSE.sub(lambda x: LETTERS[x[1]], text).replace(")^2", ")²").replace("μ^2", "μ²")


def on_docstring(app, what, name, obj, options, lines):
    """Called by autodoc, before Napoleon reads the sections."""
    lines[:] = rewrite(lines)


def on_signature(app, what, name, obj, options, signature, returned):
    """Called by autodoc: ``natural=...`` in the source is an argument that must be given."""
    return signature and signature.replace("=EPS", "=1e-10").replace("=...", ""), returned


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", on_signature)
    app.connect("autodoc-process-docstring", on_docstring, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
