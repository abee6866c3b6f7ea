/* clipc train. */
#include "eval/validation.h"
#include "eval/zeroshot_validation.h"
#include "tools/commands.h"
#include "train/train.h"
#include "train/train_options.h"

int cmd_train(int argc, char **argv) {
    options_parse(&train_command, argc, argv, NULL);
    static const Validator *const validators[] = {&validation_pairs, &validation_zeroshot};
    return train_main(validators, COUNT(validators));
}
