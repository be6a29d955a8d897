"""The user interface of a deployment: a front end (Node.js) that runs beside the services, and the
proxy that serves it below ``/ui/<deployment>/``.

::

    prepare.py          source, environment and packages: all that can fail before it runs
    package_manager.py  npm or pnpm
    packages.py         installs what package.json asks for, once per set of it
    guard.py            the leader of the front end's process group; ends it with the server
    process.py          one run of the front end
    user_interface.py   keeps the front end running
    ports.py            free ports
    proxy.py            HTTP (streams in both directions) and errors
    websocket.py        WebSockets
    headers.py          which headers pass

Who starts one prepares it first (blocking), then makes a :class:`user_interface.UserInterface`.
"""
