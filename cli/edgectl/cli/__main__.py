from edgectl.cli.main import main

main()
