/* clipc train. */
#include "tools/commands.h"
#include "train/train.h"
#include "train/train_options.h"

int cmd_train(int argc, char **argv) {
    kernel_tuning.autotune = true;
    options_parse(&train_command, argc, argv, NULL);
    return train_main();
}
