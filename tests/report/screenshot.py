"""A picture of a results folder's page: `python -m tests.report.screenshot FOLDER OUT.png [--phone] [--dark]`."""

import argparse
import base64
import time
from pathlib import Path

from cmp.report.page import write_page
from tests.report.headless import chrome


def main() -> None:
    """Rebuild the page and take the picture; of the first screen unless the whole page is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.report.screenshot")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--phone", action="store_true", help="390 pixels wide instead of 1280")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="the whole page instead of its first screen")
    arguments = parser.parse_args()
    width, height = (390, 844) if arguments.phone else (1280, 900)
    browser = chrome("--hide-scrollbars")
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": arguments.phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(write_page(arguments.folder.resolve()).as_uri())
        while browser.execute_script("return document.documentElement.dataset.drawn") != "yes":
            time.sleep(0.1)
        if arguments.whole:
            height = browser.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        arguments.out.write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
