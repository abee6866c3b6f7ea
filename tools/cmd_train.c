/* clipc train. */
#include "tools/commands.h"
#include "train/train.h"
#include "train/train_options.h"

int cmd_train(int argc, char **argv) {
    options_parse(&train_command, argc, argv, NULL);
    return train_main();
}
