"""What the site is made with: pages written from the code, links out of ``docs/``."""
