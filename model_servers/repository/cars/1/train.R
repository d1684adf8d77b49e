# Fit the model: `Rscript train.R DIRECTORY` writes into it what serve.R loads.
directory <- commandArgs(trailingOnly = TRUE)[1]
model <- lm(mpg ~ wt + hp, data = mtcars)

# Of each car by a model of all others.
left_out <- residuals(model) / (1 - hatvalues(model))
r_squared <- 1 - sum(left_out^2) / sum((mtcars$mpg - mean(mtcars$mpg))^2)
if (r_squared < 0.75) {
  message(sprintf("its R squared for cars that it did not see is %.3f; it must be 0.75 at least", r_squared))
  quit(status = 1)
}
writeLines(sprintf('{"r_squared": %.4f}', r_squared), file.path(directory, "training.json"))
saveRDS(model, file.path(directory, "model.rds"))
