from sb3_sparse.zoo.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
