import subprocess
import sys


def test_predicting_imports_nothing_that_runs_a_model():
    code = (
        "import importlib, pkgutil, sys, engine.predict\n"
        "for found in pkgutil.iter_modules(engine.predict.__path__, 'engine.predict.'):\n"
        "    importlib.import_module(found.name)\n"
        "runs = {'torch', 'httpx', 'engine.engine', 'engine.prefilled', 'engine.answerers'}\n"
        "heavy = runs & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
